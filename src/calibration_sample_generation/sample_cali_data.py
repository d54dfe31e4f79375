from ditq.cli.sample_cali_data import main

if __name__ == "__main__":
    main()
