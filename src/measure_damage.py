from ditq.cli.measure_damage import main

if __name__ == "__main__":
    main()
