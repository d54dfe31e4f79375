from ditq.cli.quantize import main

if __name__ == "__main__":
    main()
